"""`python -m reward_service CONFIG`: one replica of the reward service; or, with options, what a past run left."""

import sys

if __name__ == "__main__":  # the processes that grade import this file too, and need nothing of it
    from reward_service.command import main

    sys.exit(main())
