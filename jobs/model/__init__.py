"""The model: specification, record, states and rules of a job, without I/O."""
