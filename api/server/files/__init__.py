"""Files in storage, served and received over HTTP."""
