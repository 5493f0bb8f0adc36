"""The worlds as the interfaces of other libraries know them: Gymnasium's vector envs and PettingZoo's parallel ones."""
