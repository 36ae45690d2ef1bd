"""Networks of decision policies and their action distributions."""
