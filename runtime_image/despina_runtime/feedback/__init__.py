"""What callers say of answers: kept, brought together with what was answered, and delivered."""
