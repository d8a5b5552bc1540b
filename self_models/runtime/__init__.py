"""What happens in a run: what is drawn, what does a step hand on, what comes out?"""
