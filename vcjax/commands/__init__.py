"""Commands of one module each, which `vcjax NAME` runs."""
