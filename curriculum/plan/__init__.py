"""The compiled plan, numbers only: learning rate, mixture draws, order, their inverse. May import errors and fs."""
