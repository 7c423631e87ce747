"""Train several models at once on the same data-parallel workers: one computes while another's gradients travel."""
