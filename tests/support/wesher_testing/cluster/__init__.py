"""A real API server, real kubelets, the image, the chart and the operator on them."""
