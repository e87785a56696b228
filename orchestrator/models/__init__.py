"""The models of the catalogue as Triton has loaded them."""
