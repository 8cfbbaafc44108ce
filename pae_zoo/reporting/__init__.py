"""Pages and tables of finished runs: which way a figure is better, what stands beside it, HTML that needs nothing."""
