"""Credit: what each answer's rewards are worth beside its group's, and which tokens they train."""
