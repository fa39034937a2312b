"""What registrations cost and gain: this program and its peers on the same pairs, each in its own process."""
