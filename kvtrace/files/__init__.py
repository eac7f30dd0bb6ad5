"""Files of any kind: read with bounds, written whole or not at all."""
