"""What storage took of each inference request, by class of urgency."""
