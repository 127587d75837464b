"""What may go and what stays: policies, rules and the plan they give; pure, of one position of the index."""
