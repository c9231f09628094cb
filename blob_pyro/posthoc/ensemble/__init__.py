"""Deep ensembles."""
