"""The Celery worker: claims a job, runs it in a child process, keeps the lease, saves its files."""
