"""What a model looks at: attribution, analysis of the weights, figures and a page."""
