"""Adapters of MettaGridEnv to Gymnasium vector environments and PettingZoo parallel environments."""
