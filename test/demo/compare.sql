-- Our figures beside the simulator's own, which it computes from its list of events alone; the same for each person,
-- link and bounce: how many there are on either side, and how many of them differ.
\echo '-- # 9. Are the figures right?'
\echo '-- On the left what this database says; on the right what the stand-in for Mailchimp says of itself.'
\echo
\set truth `cat "$TRUTH"`

WITH truth AS (
    SELECT :'truth'::jsonb AS it
), person AS (
    SELECT p.* FROM truth, jsonb_to_recordset(it -> 'persons') AS p(email text, status text, opens int, clicks int)
), figure AS (
    SELECT f.* FROM mc_report r, truth, LATERAL (VALUES
        (1, 'e-mails sent', r.emails_sent::bigint, (it ->> 'emails_sent')::bigint),
        (2, 'opened in total', r.total_opened, (it #>> '{opens,total}')::bigint),
        (3, 'persons who opened', r.unique_opened, (it #>> '{opens,unique}')::bigint),
        (4, 'clicked in total', r.total_clicked, (it #>> '{clicks,total}')::bigint),
        (5, 'persons who clicked', r.unique_clicked, (it #>> '{clicks,unique}')::bigint),
        (6, 'soft bounces', r.soft_bounces, (it ->> 'soft_bounces')::bigint),
        (7, 'hard bounces', r.hard_bounces, (it ->> 'hard_bounces')::bigint),
        (8, 'unsubscribed', r.unsubscribed, (it ->> 'unsubscribed')::bigint),
        (9, 'complaints', r.complaints, (it ->> 'complaints')::bigint),
        (10, 'opens that we recorded', r.recorded_opened, (it #>> '{opens,total}')::bigint),
        (11, 'clicks that we recorded', r.recorded_clicked, (it #>> '{clicks,total}')::bigint)
    ) AS f(position, figure, ours, theirs)
    WHERE r.campaign_id = 1
), ours(position, figure, item) AS (
    SELECT 12, 'status of each recipient', jsonb_build_array(email, status) FROM mc_campaign_recipient
        WHERE campaign_id = 1 AND status <> 'skipped'
    UNION ALL SELECT 13, 'opens of each person', jsonb_build_array(email, opens) FROM mc_report_openers(1)
    UNION ALL SELECT 14, 'clicks of each person', jsonb_build_array(email, clicks) FROM mc_report_clickers(1)
    UNION ALL SELECT 15, 'clicks of each link', jsonb_build_array(url, clicks, unique_clicks) FROM mc_report_links(1)
    UNION ALL SELECT 16, 'each bounce', jsonb_build_array(email, bounce_type, occurred_at::timestamptz) FROM mc_report_bounces(1)
    UNION ALL SELECT 17, 'each unsubscribe or complaint', jsonb_build_array(email, occurred_at) FROM mc_activity
        WHERE campaign_id = 1 AND type = 'unsubscribed'
), theirs(position, figure, item) AS (
    SELECT 12, 'status of each recipient', jsonb_build_array(email, status) FROM person
    UNION ALL SELECT 13, 'opens of each person', jsonb_build_array(email, opens) FROM person WHERE opens > 0
    UNION ALL SELECT 14, 'clicks of each person', jsonb_build_array(email, clicks) FROM person WHERE clicks > 0
    UNION ALL SELECT 15, 'clicks of each link', jsonb_build_array(l.url, l.total, l.unique)
        FROM truth, jsonb_to_recordset(it -> 'links') AS l(url text, total int, "unique" int)
    UNION ALL SELECT 16, 'each bounce', jsonb_build_array(b.email, b.type, b.at)
        FROM truth, jsonb_to_recordset(it -> 'bounces') AS b(email text, type text, at timestamptz)
    UNION ALL SELECT 17, 'each unsubscribe or complaint', jsonb_build_array(u.email, u.at)
        FROM truth, jsonb_to_recordset((it -> 'unsubscribes') || (it -> 'complaints_by')) AS u(email text, at timestamptz)
), listed AS (
    SELECT position, figure, count(o.item) AS ours, count(t.item) AS theirs,
        count(*) FILTER (WHERE o.item IS NULL OR t.item IS NULL) AS different
    FROM ours o FULL JOIN theirs t USING (position, figure, item) GROUP BY 1, 2
)
SELECT figure, ours AS "in PostgreSQL", theirs AS "at Mailchimp", different
FROM (SELECT *, abs(ours - theirs) AS different FROM figure UNION ALL SELECT * FROM listed) AS f ORDER BY position;
