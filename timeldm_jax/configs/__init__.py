"""Config files, one a data set: `get_config(variant)`."""
