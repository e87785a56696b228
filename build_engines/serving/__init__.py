"""What our Triton backends share, whatever engine is behind them: tensors in, responses out."""
