"""The compiled plan as numbers: learning rate, mixture, order and its inverse. May import errors, units and fs."""
