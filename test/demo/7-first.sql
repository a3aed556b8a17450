-- The first figures, and when the next ones will be fetched:

SELECT campaign_id, tier, date_trunc('second', age) AS age, date_trunc('second', last_polled_at) AS last_polled_at,
    date_trunc('second', next_poll_at) AS next_poll_at FROM mc_poll_schedule;
SELECT emails_sent, total_opened, unique_opened, total_clicked, unique_clicked, hard_bounces, unsubscribed
FROM mc_report;
