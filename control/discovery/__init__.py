"""Where endpoints come from: sources that each yield whole sets, behind one interface."""
