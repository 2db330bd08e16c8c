"""`python -m reward_service CONFIG`: one replica of the reward service."""

import sys

if __name__ == "__main__":  # the processes that grade import this file too, and need nothing of it
    from reward_service.replica import main

    sys.exit(main())
