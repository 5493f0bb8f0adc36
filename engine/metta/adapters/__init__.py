"""Adapters that present MettaGridEnv as a Gymnasium vector environment or a PettingZoo parallel environment."""
