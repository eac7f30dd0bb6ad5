"""Block devices and mounts, as the kernel describes them."""
