"""warp: operation logs, which several tools share."""
