"""The two demonstration models: their corpus, their training and their evaluation."""
