"""The conversation with the dispatcher: from the start of the embedded service to the program's end."""
