"""What is learnt: the losses, who teaches, and each objective's gradients of one step."""
