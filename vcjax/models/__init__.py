"""The 3D ResNet that embeds clips (Sec. 4.2)."""
