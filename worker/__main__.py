"""`python -m worker`: one worker process."""

from worker.app import main

if __name__ == "__main__":
    main()
