"""FreeSeg (arXiv 2209.13558): similarity maps, mining, partial losses, and ICLIP, which it builds on."""
