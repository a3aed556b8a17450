# A full comparison of many contacts that have not changed (N5): no request for any of them, and the memory of the engine
# does not grow with the audience (design.md, rule 12). test/bench/compare does the same for 1,000,000.

use strict;
use warnings;
use McPeople;
use McTest;
use Test::More;

my $people = 20000;

my $sim = McTest::Simulator->start;
$sim->post('/_sim/demo');
my $node = McTest::Node->start('main', extension => 0, conf => "mailchimp_sync.databases = 'postgres'");
my $crm = McPeople->new($node, $sim, people => $people);

sub send_is
{
	$node->query("ALTER SYSTEM SET mailchimp_sync.send = $_[0]");
	$node->query('SELECT pg_reload_conf()');
	$node->wait_until("SELECT current_setting('mailchimp_sync.send') = '$_[0]'");
}

# Evaluated by the worker, and noted as sent without a request for each 500.
send_is('off');
$crm->sync;
$crm->wait_until("SELECT count(*) = $people FROM mc_contact_state WHERE state = 'pending'");
$crm->wait_until('SELECT compared_at IS NOT NULL FROM mc_audience');
$crm->super("UPDATE mailchimp_sync.contact SET state = 'in_sync', action = NULL, sent_hash = desired_hash, member_hash = email_hash;
	INSERT INTO mailchimp_sync.member (audience_id, email_hash, email, status, ours)
	SELECT audience_id, email_hash, email, 'subscribed', true FROM mailchimp_sync.contact");
send_is('on');
my $pid = $crm->wait_worker;

# The bytes in all memory contexts of the worker, each time that it is asked while the comparison is under way, with the
# key up to which that has come.
my @seen;

sub key { return $crm->super("SELECT compare_after FROM mailchimp_sync.audience_source WHERE compare_phase = 'rows'") }

sub look
{
	my $from = $node->log_end;
	my $key = key();
	return if $key eq '';
	$crm->super("SELECT pg_log_backend_memory_contexts($pid)");
	$node->wait_log('Grand total:', $from);
	my ($bytes) = PostgreSQL::Test::Utils::slurp_file($node->logfile, $from) =~ /Grand total: (\d+) bytes/;
	push @seen, [ $key, $bytes ];
}

# what was seen in the first third, and in the last
sub seen_in { my ($from, $to) = @_; return sort { $a <=> $b } map { $_->[1] } grep { $_->[0] > $from && $_->[0] <= $to } @seen }
sub thirds { return ([ seen_in(0, $people / 3) ], [ seen_in($people * 2 / 3, $people) ]) }

# As often as it takes: the least of a few looks may still be the most that a page takes.
do
{
	$crm->sync;
	McTest::poll('the end of the comparison', sub {
		look();
		$crm->super('SELECT compare_asked_at IS NULL AND NOT EXISTS (SELECT FROM mailchimp_sync.audience_source WHERE compare_from IS NOT NULL) FROM mailchimp_sync.audience') eq 't';
	}, 0.02);
} while (grep { @$_ < 8 } thirds());
$crm->wait_until("SELECT count(*) = $people FROM mc_contact_state WHERE state = 'in_sync'");
is(join(', ', map { $_->{route} } grep { $_->{method} ne 'GET' && $_->{route} !~ /merge-fields/ } $sim->journal), '',
	"N5: no request for $people contacts that have not changed");

# Within a page it differs by some MB, so the least of the first third and of the last; what is kept of each contact, were
# it its values, would be a kB.
my @low = thirds();
note scalar(@{ $low[0] }) . ' and ' . scalar(@{ $low[1] }) . " looks: $low[0][0] and $low[1][0] bytes";
cmp_ok($low[1][0] - $low[0][0], '<', 8_000_000, 'rule 12: the memory of the engine does not grow with the audience');

# -----------------------------------------------------------------------------------------------------------------
# What is done again and again costs a few lookups, whatever the planner knows of the tables (after a restore: nothing)
# -----------------------------------------------------------------------------------------------------------------

$crm->ann('SELECT mc_stop_worker()');
is($crm->super("BEGIN; DELETE FROM pg_statistic WHERE starelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'mailchimp_sync'::regnamespace);
	UPDATE pg_class SET relpages = 0, reltuples = -1, relallvisible = 0 WHERE relnamespace = 'mailchimp_sync'::regnamespace AND relkind = 'r';
	COMMIT; SELECT count(*) FROM pg_class WHERE relnamespace = 'mailchimp_sync'::regnamespace AND reltuples >= 0 AND relkind = 'r'"), 0,
	'nothing is known');
my $scans = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_stat_xact_all_tables
	WHERE relid IN ('mailchimp_sync.contact'::regclass, 'mailchimp_sync.member'::regclass) AND seq_scan > 0";
for my $call ("SELECT mc_opt_out('person', 1)", "SELECT mc_erase_contact('p2\@crm.test')", "SELECT mc_opt_out('person', 3); SELECT * FROM mailchimp_sync.opt_out_next('main')",
	"SELECT mailchimp_sync.read_seen(1, false, now(), ARRAY[mailchimp_sync.email_hash('p4\@crm.test')], ARRAY['p4\@crm.test'], ARRAY['unsubscribed'], ARRAY['c'], ARRAY[''], ARRAY[''], ARRAY[NULL]); SELECT 1 / (mc_is_opted_out('person', 4))::integer",
	"UPDATE mailchimp_sync.audience SET direction = 'both'; SELECT mailchimp_sync.members_shown(1, true, now(), ARRAY[mailchimp_sync.email_hash('p6\@crm.test')], ARRAY['p6\@crm.test'], ARRAY['subscribed'], ARRAY['c'], ARRAY[''], ARRAY[''], ARRAY['{}']); SELECT mailchimp_sync.look_due()",
	"SELECT mc_erase_contact('p5\@crm.test'); SELECT mailchimp_sync.erase_clean()",
	# these look at small tables that nobody has looked at, and that is not rolled back
	"UPDATE crm.person SET city = 'Delft' WHERE id < 100; SELECT mailchimp_sync.fold(); SELECT count(*) FROM mailchimp_sync.push_next('main')",
	"DELETE FROM crm.person WHERE id < 100; SELECT mailchimp_sync.fold(); SELECT mailchimp_sync.reread(), mailchimp_sync.guard(), mailchimp_sync.leave_due()")
{
	(my $name = $call) =~ s/mailchimp_sync\.//g;
	is((split /\n/, $crm->super("BEGIN; $call; SELECT 'scans ' || coalesce(($scans), 'none'); ROLLBACK"))[-1], 'scans none', substr($name, 0, 60));
}

# -----------------------------------------------------------------------------------------------------------------
# Nothing waits for a VACUUM of our tables, which may take long
# -----------------------------------------------------------------------------------------------------------------

my $vacuum = $node->session;
$vacuum->query('BEGIN; LOCK TABLE mailchimp_sync.contact, mailchimp_sync.member IN SHARE UPDATE EXCLUSIVE MODE');
$crm->ann("UPDATE crm.person SET first_name = 'Vacuumed' WHERE id = 7");
$crm->mia('CALL mc_run()');
like($crm->names, qr/\b7=Vacuumed\b/, 'a change goes on while a table is vacuumed');
$vacuum->quit;

done_testing;
