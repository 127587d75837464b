"""Proofs that strangers can check: signed checkpoints, inclusion, witnesses, in the formats of C2SP."""
