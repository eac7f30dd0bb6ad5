"""Storage time of each inference request, by QoS class."""
