"""Finite resources and who may have how much of them: shares by token, places by address network, descriptors."""
