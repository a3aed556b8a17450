-- # 7. Results
-- People read their mail; the clocks go on half an hour. Young campaigns are asked for often, old ones
-- seldom; nobody has to call anything.

SELECT * FROM mc_poll_tiers();
