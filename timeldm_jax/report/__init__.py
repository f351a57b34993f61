"""Pictures of a run."""


def run() -> None:
    """Entry point of the command `report`; see `__main__`."""
    from timeldm_jax.report import __main__ as command

    command.run()
