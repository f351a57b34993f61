"""The errors that a user can do something about; each message says what."""


class DataError(ValueError):
    """A fault in the data, or in how it was asked for, that the user can fix."""


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the key."""


class CheckpointError(RuntimeError):
    """No checkpoint, or no saved model, that can be used."""


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite."""


class Preempted(RuntimeError):
    """SIGTERM or SIGINT arrived; the state is saved and the same command resumes."""


USER_ERRORS = (ConfigError, DataError, CheckpointError, NonFiniteLossError)
