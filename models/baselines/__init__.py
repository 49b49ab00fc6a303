"""Face swaps without any learnt swap model: what a trained one has to beat."""
