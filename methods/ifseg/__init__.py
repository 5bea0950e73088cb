"""IFSeg (CVPR 2023) and the readings of OFA that it is compared with."""
