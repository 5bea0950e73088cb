"""ZeroSeg (ICCV 2023), its segment tokens and views, and GroupViT, which it grew from."""
