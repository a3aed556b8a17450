# A campaign to many (R20, N3, design.md rules 6 and 12): keys from a query, five hundred recipients in a request, a
# thousand in a transaction and no more, no request for one of them; how far it is in mc_progress and in what mc_run says.
# How long it takes and how much memory is in test/bench/campaign.

use strict;
use warnings;
use McCampaign;
use McTest;
use Test::More;

my $people = 2200;
my $crm = McCampaign->start(people => $people);
my ($sim, $node) = @$crm{qw(sim node)};

$sim->post('/_sim/config', { count_seconds => 0, count_looks => 0 });

# what the engine's transactions do: pages that they take, recipients that they change
$node->query(<<'SQL');
CREATE TABLE page (xid xid8, step text, cursor text);
CREATE FUNCTION note_page() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
	INSERT INTO page SELECT pg_current_xact_id(), NEW.step, NEW.cursor WHERE NEW.cursor IS NOT NULL;
	RETURN NULL;
END $$;
CREATE TRIGGER note_page AFTER UPDATE ON mailchimp_sync.campaign FOR EACH ROW EXECUTE FUNCTION note_page();
CREATE TABLE change (xid xid8, step text, recipients bigint);
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
	INSERT INTO change SELECT pg_current_xact_id(), (SELECT step FROM mailchimp_sync.campaign), (SELECT count(*) FROM changed);
	RETURN NULL;
END $$;
CREATE TRIGGER note_change AFTER UPDATE ON mailchimp_sync.recipient
	REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_change();
SQL

# ---- who comes in a later page than somebody with the same address is not counted (R20, D13)

$crm->ada("INSERT INTO candidate (id, email) VALUES (9999, 'P1\@example.org')");
my $campaign = $crm->mia("SELECT mc_create_campaign('Large', 'customers', 'Newsletter', 'Mia', 'mia\@example.org')");
$crm->ada('GRANT SELECT ON candidate TO mia');
is($crm->mia("SELECT mc_add_recipients($campaign, 'candidate', array_agg(id ORDER BY id DESC)) FROM candidate"), $people, 'all of a query');
is($crm->mia("SELECT mc_add_recipients($campaign, 'candidate', array_agg(id) || array_agg(id)) FROM candidate WHERE id % 2 = 0"), $people / 2,
	'some of them again: each is counted once');
is($crm->mia("SELECT string_agg(contact_key || ' ' || skip_reason, ', ') FROM mc_campaign_recipient WHERE status <> 'pending'"),
	'9999 duplicate', 'one mail to an address');
is($crm->mia("SELECT mc_remove_recipients($campaign, 'candidate', array_agg(id)) FROM candidate WHERE id BETWEEN 100 AND 1299"), 1200, 'taken out');
is($crm->mia("BEGIN; SELECT mc_add_recipients($campaign, 'candidate', array_agg(id)) FROM candidate;
	SELECT idx_scan BETWEEN 1 AND 30 * $people FROM pg_stat_xact_all_tables WHERE schemaname = 'mailchimp_sync' AND relname = 'recipient'; COMMIT"),
	"$people\nt", 'and put in again; each is looked up a few times, however many there are');
is($crm->mia('SELECT recipients, skipped FROM mc_campaign'), "$people|1", 'recipients and skipped');
$node->wait_until('SELECT NOT EXISTS (SELECT FROM mailchimp_sync.event)');

# ---- how far it is: the second request for its segment is held

my $before = ($sim->journal)[-1]{n};
$sim->hold(method => 'POST', path => '/segments/\d+$', nth => 2, when => 'before');
$node->query('TRUNCATE page, change');
$crm->mia("SELECT mc_prepare_campaign($campaign)");
my ($held) = $sim->wait_held;
is($crm->mia('SELECT work, audience, campaign_id, phase, done, total, rate, eta FROM mc_progress WHERE campaign_id IS NOT NULL'),
	"campaign|customers|$campaign|filling|500|$people|8.3|00:03:25", 'mc_progress');
my $session = $node->session(as => 'mia');
my $from = $node->log_end;
McTest::begin($session, 'CALL mc_run();');
$node->wait_log(qr/\tcampaign $campaign "Large": filling, 500 of $people recipients, 8\.3 per second, 00:03:25 left$/m, $from);
$sim->release;
$session->query('');
$session->quit;
$crm->wait_status($campaign, 'prepared');
is($crm->mia('SELECT count(*) FROM mc_progress WHERE campaign_id IS NOT NULL'), 0, 'nothing is under way any more');

# ---- five hundred in a request, and each of them once

my @fills = $sim->journal(since => $before, method => 'POST', path => '/segments/\d+$');
is(join(' ', map { scalar @{ $_->{body}{members_to_add} } } @fills), '500 500 500 500 200', 'by 500');
my %filled;
$filled{$_}++ for map { @{ $_->{body}{members_to_add} } } @fills;
is(scalar(grep { $_ == 1 } values %filled), $people, 'everybody once');
is($node->query(<<"SQL"), <<'IS' =~ s/\n\z//r, 'no request for one of them (N3: none twice)');
SELECT method, regexp_replace(split_part(path, '?', 1), '/[0-9a-f]{10}|/[0-9]+', '/*', 'g'), sum(contacts), count(*)
FROM mailchimp_sync.request WHERE campaign_id = $campaign GROUP BY 1, 2 ORDER BY 1, 2
SQL
GET|/campaigns|0|1
GET|/campaigns/*|0|1
GET|/campaigns/*/send-checklist|0|1
POST|/campaigns|0|1
POST|/lists/*/segments|0|1
POST|/lists/*/segments/*|2200|5
PUT|/campaigns/*/content|0|1
IS

# ---- a page of recipients in a transaction

is($node->query("SELECT string_agg(format('%s %s', step, pages), ', ' ORDER BY step) FROM (SELECT step, count(DISTINCT cursor) AS pages FROM page GROUP BY 1) p"),
	'decide 3, fold 3, join 3, refold 3, settle 3', 'pages of a thousand');
is($node->query('SELECT max(n) FROM (SELECT count(DISTINCT cursor) AS n FROM page GROUP BY xid) p'), 1, 'a transaction takes one');
is($node->query('SELECT max(n) FROM (SELECT sum(recipients) AS n FROM change GROUP BY xid) c'), 500, 'and changes no more recipients than a request carries');

# ---- one opts out: only that one is touched before it is sent

$crm->mia("SELECT mc_opt_out('candidate', 7)");
$node->wait_until("SELECT NOT EXISTS (SELECT FROM mailchimp_sync.recipient WHERE status = 'skipped' AND segment_email IS NOT NULL)");
$node->query('TRUNCATE page, change');
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->wait_status($campaign, 'sent');
is($node->query("SELECT sum(recipients) FROM change WHERE step IS DISTINCT FROM 'sent'"), 0, 'nobody else is changed any more');
is($node->query('SELECT max(n) FROM (SELECT count(DISTINCT cursor) AS n FROM page GROUP BY xid) p'), 1, 'a page in a transaction');
is(scalar($sim->journal(since => $before, method => 'POST', path => '/segments/\d+$')), 6, 'one request more for the segment');
is($crm->column($campaign, "emails_sent || ' ' || recipients || ' ' || skipped"), ($people - 1) . ' ' . ($people - 1) . ' 2', 'sent to the others');
is(scalar(keys %{ { map { $_->{email} => 1 } @{ $sim->get('/_sim/mails')->{mails} } } }), $people - 1, 'each of them got it');
is($sim->get('/_sim/mails')->{total}, $people - 1, 'once (N3)');

$node->stop;
done_testing();
