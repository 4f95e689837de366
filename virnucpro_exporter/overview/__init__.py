"""What people should see of a run and its GPUs, as values: views only draw them."""
