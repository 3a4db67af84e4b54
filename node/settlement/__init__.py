"""What a tunnel costs and who has paid: cores, with no clock, socket or database in them."""
