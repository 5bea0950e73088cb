"""A protocol in words, for reports: the rules that a method follows and that have an effect."""

from __future__ import annotations

from evaluation.protocol import Protocol


def in_words(protocol: Protocol) -> list[str]:
    """A line for windows, prompt and decision each, and one for every further rule."""
    rules, decision = protocol.in_effect(), protocol.decision
    lines = [windows_in_words(protocol), prompt_in_words(protocol), decision_in_words(protocol)]
    if rules.get("area_threshold"):
        lines.append(f"Classes covering at most {decision.area_threshold:.0%} of the predicted foreground are dropped.")
    if rules.get("gate_classes"):
        lines.append(f"Segment tokens: each class also weighs as it does among the image's best {decision.gate_classes}.")
    if "neighbours" in rules:
        lines.append(f"Mean over the {decision.neighbours} most similar patches, {decision.neighbour_steps} times.")
    if "pamr_iterations" in rules:
        lines.append(f"PAMR at the original size, {decision.pamr_iterations} iterations, dilations {decision.pamr_dilations}.")
    if "position_resize" in rules:
        lines.append(f"Position embeddings: {protocol.windows.position_resize.replace('_', ' ')}.")
    lines.append("Labels are compared at the original size.")
    if protocol.published is not None:
        lines.append(f"The authors of '{protocol.name}' report {protocol.published:.2f} for their own method here.")
    if protocol.deviates:
        lines.append(f"Differs from what the authors of '{protocol.name}' released: {protocol.deviates}")
    return [line for line in lines if line]


def windows_in_words(protocol: Protocol) -> str:
    """Sizes and windows; nothing of a protocol's where the method looks at images in its own way."""
    rules, scored = protocol.windows, "the whole image at once"
    if "short_side" not in protocol.follows:
        return "The method takes images in their own size and cuts its windows itself."
    if rules.crop is None and rules.upsampling == "twice":
        scored += ", its scores brought to the resized image and then to the original"
    if rules.crop is not None:
        scored = f"windows of {rules.crop} x {rules.crop} with stride {rules.stride}, scores averaged where they overlap"
    size = f"resized to a short side of {rules.short_side} px" if rules.short_side else "taken in their own size"
    bilinear = f"bilinear{' with antialiasing' if rules.antialias else ''}"
    return f"Images are {size} (long side at most {rules.max_long_side}), {bilinear}, ratio kept; {scored}."


def prompt_in_words(protocol: Protocol) -> str:
    """Words and templates; nothing for a closed head, which is asked no words."""
    prompt, rules = protocol.prompt, protocol.in_effect()
    if "wording" not in rules:
        return ""
    if "templates" not in rules:
        return f"Words: wording '{prompt.wording}'; a class takes the best of its synonyms."
    raw = " before normalising" if rules.get("ensemble") == "raw" else ""
    synonyms = "best" if prompt.synonyms == "max" else "mean embedding"
    return (
        f"Words are put into the {len(prompt.template_list)} template(s) of '{prompt.templates}' and averaged{raw}; "
        f"wording '{prompt.wording}'; a class takes the {synonyms} of its synonyms."
    )


def decision_in_words(protocol: Protocol) -> str:
    """From scores to labels."""
    decision, value = protocol.decision, protocol.decision.background_value
    least = f"; pixels with a best probability below {value} join it" if value else ""
    background = {
        "none": "No rule for background: every pixel takes its best class, background among them where it has words.",
        "words": f"Background is asked by its own words{least}.",
        "threshold": "Background is a channel of each window, averaged with the others: 1 where the best probability is below "
        f"{value} or, if that is lower, below the best of the window.",
        "constant": f"Background is a constant channel of {value}.",
    }[decision.background]
    activation = "softmax over all words" if decision.activation == "softmax" else "a sigmoid per word in each window"
    bias = f" {decision.logit_bias:+g}" if "logit_bias" in protocol.in_effect() and decision.logit_bias else ""
    parts = [f"cosines times {decision.temperature:g}{bias}"] if "temperature" in protocol.follows else []
    scores = ", ".join([*parts, activation] if "activation" in protocol.follows else parts)
    return f"{scores[:1].upper()}{scores[1:]}. {background}" if scores else background
