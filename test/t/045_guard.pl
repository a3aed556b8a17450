# The mass-change guard (N6): removals and new subscriptions beyond max(50, a fifth of the members) within 24 hours wait for mc_approve.

use strict;
use warnings;
use McCrm;
use McTest;
use Test::More;

my $fields = [ { tag => 'FNAME' }, { tag => 'LNAME' }, { tag => 'OWNERNAME' } ];
my $crm = McCrm->start('main', candidates => 300, demo => { lists => [ map +{ name => $_, merge_fields => $fields }, 'Customers', 'Second' ] });
my ($node, $sim, $list) = @$crm{qw(node sim list)};
my $out = '; SELECT mc_approve(\'people\') lets them go';

sub guard { return $crm->rita("SELECT state, detail FROM mc_audience WHERE audience = 'people'") }
sub there { my %members = $crm->members; return scalar grep { $_->{status} eq 'subscribed' } values %members }

# What went out since the last call: subscribed, removed.
sub went
{
	my @entries = $crm->journal;
	my ($pushed, $left) = (0, 0);
	for my $entry (@entries)
	{
		$pushed += @{ $entry->{body}{members} } if $entry->{route} eq 'POST /lists/{list_id}';
		$left++ if $entry->{method} eq 'DELETE';
	}
	return "$pushed $left";
}

sub inserts
{
	my ($from, $to) = @_;
	return "INSERT INTO crm.candidate SELECT g, 'F' || g, 'L' || g, 'c' || g || '\@crm.test', 1, true, true, '{}' FROM generate_series($from, $to) g";
}

# -----------------------------------------------------------------------------------------------------------------
# The first fill, and the limit
# -----------------------------------------------------------------------------------------------------------------

$crm->sync;
is(there() . ' ' . guard(), '300 active|', 'N6: the first fill is approved by switching the audience on');
went();
like($node->error("SELECT mc_approve('people')", as => 'max'), qr/42501/, 'mc_approve takes an admin');
like($node->error("SELECT mc_approve('peple')", as => 'ann'), qr/42704.*\n.*people/, 'and a name');
$crm->ann("SELECT mc_approve('people')");

$crm->ann("DELETE FROM crm.candidate WHERE id <= 60");
$crm->run;
is(went() . ' ' . guard(), '0 60 active|', 'a fifth of the members may go');

$crm->ann("DELETE FROM crm.candidate WHERE id IN (61, 62); UPDATE crm.candidate SET first_name = 'New' WHERE id = 63; " . inserts(301, 305));
$crm->run;
is(went(), '6 0', 'beyond that, removals wait; updates and new subscriptions go on');
is(guard(), "guard_stopped|the mass-change guard holds 2 removals: with the 60 of the last 24 hours they are more than 60, the limit for 300 members$out",
	'mc_audience says so, with the numbers and the way out');
is($crm->max("SELECT ok, heading, detail FROM mc_check_campaign(mc_create_campaign('Held', 'people')) WHERE heading ~ 'guard'"),
	"f|the guard holds removals|the mass-change guard holds 2 removals: with the 60 of the last 24 hours they are more than 60, the limit for 300 members; recipients are not held. mc_approve('people') lets them go.",
	'and mc_check_campaign');
is($crm->state(61), 'pending|its row is gone; held by the mass-change guard', 'mc_contact_state');
is($crm->rita("SELECT ok, value FROM mc_status WHERE item = 'audience people'"), 'f|guard_stopped', 'mc_status');
is($crm->rita("SELECT phase, total - done FROM mc_progress"), 'held|2', 'mc_progress');
is($crm->max("SELECT string_agg(action || ' ' || contact_key, ', ' ORDER BY contact_key::int) FROM mc_preview('people')"), 'leave 61, leave 62', 'mc_preview shows what is to be done');
is($crm->status, 'in_sync 243 outside 60 pending 2', 'N8: the states add up');

# Held, until what was done is older than a day. Meanwhile the members of 24 hours ago are found out anew.
$crm->later(4000);
$crm->run;
like(guard(), qr/ the 60 of the last 24 hours they are more than 60, the limit for 300 members/, 'those who came and went since do not change the limit');
$crm->later(82390);
$crm->run;
is(went(), '0 0', 'held for 24 hours');
$crm->later(1000);
$crm->run;
is(went() . ' ' . guard(), '0 2 active|', 'then they are few enough');

# -----------------------------------------------------------------------------------------------------------------
# mc_approve approves a number
# -----------------------------------------------------------------------------------------------------------------

$crm->later(90000);
$crm->ann(inserts(401, 451));
$crm->run;
is(went(), '0 0', 'more new subscriptions than 50');
like(guard(), qr/^guard_stopped\|the mass-change guard holds 51 new subscriptions: with the 0 of the last 24 hours they are more than 50, the limit for 243 members/, 'are held');
$crm->ann("DELETE FROM crm.candidate WHERE id = 451");
$crm->run;
is(went() . ' ' . guard(), '50 0 active|', 'fewer: they go by themselves');

$crm->ann(inserts(501, 560));
$crm->run;
$crm->ann("SELECT mc_approve('people'); " . inserts(561, 561));
is(guard(), 'active|', 'approved');
$crm->run;
is(went(), '0 0', 'and they are more than was approved');
like(guard(), qr/^guard_stopped\|the mass-change guard holds 61 new subscriptions: of those that were approved 60 are left/, 'so they stop again');
$crm->ann("SELECT mc_approve('people')");
$crm->run;
is(went() . ' ' . guard(), '61 0 active|', 'approved once more, as many as are shown: they go');

# What was approved is written off: counting starts anew.
$crm->ann(inserts(601, 670));
$crm->run;
is(went() . ' ' . guard(), '70 0 active|', 'what was approved is in the base, and does not count');
$crm->ann(inserts(671, 671));
$crm->run;
like(went() . ' ' . guard(), qr/^0 0 guard_stopped\|.* holds 1 new subscriptions: with the 70 of the last 24 hours they are more than 70, the limit for 354 members/, 'what was not approved does');

# More come while those that were approved are under way: these come to their end, the others are counted anew.
$crm->later(90000);
$crm->run;
went();
$crm->ann(inserts(701, 800));
$crm->run;
$crm->ann("SELECT mc_approve('people')");
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => 'before');
my $run = $node->session(as => 'max');
McTest::begin($run, 'CALL mc_run();');
$sim->wait_held;
$crm->ann(inserts(801, 801));
$node->wait_until("SELECT state = 'guard_stopped' FROM mc_audience");
like(guard(), qr/holds 101 new subscriptions: of those that were approved 100 are left/, 'one more than was approved: held again');
$sim->release;
$run->query('');
is(went() . ' ' . guard(), '101 0 active|', 'when all that was approved is done, the one more is within the limit');

# -----------------------------------------------------------------------------------------------------------------
# What the guard has no say in
# -----------------------------------------------------------------------------------------------------------------

# Both kinds are held; opt-outs and whom a campaign brings in go.
$crm->later(90000);
$crm->ann("UPDATE crm.candidate SET active = id > 168 WHERE id < 300; " . inserts(901, 1100));
$crm->run;
went();
is(guard(), 'guard_stopped|the mass-change guard holds 106 removals: with the 0 of the last 24 hours they are more than 105, the limit for 526 members; '
	. "the mass-change guard holds 200 new subscriptions: with the 0 of the last 24 hours they are more than 105, the limit for 526 members$out", 'both kinds, each counted by itself');
$crm->max("SELECT mc_opt_out('candidate', id) FROM generate_series(280, 299) id");
$crm->run;
my %members = $crm->members;
is(scalar(grep { $_->{status} eq 'unsubscribed' } values %members), 20, 'D12: opt-outs are neither held nor counted');
my $campaign = $crm->max("SELECT mc_create_campaign('News', 'people', 'Newsletter', 'Max', 'max\@example.org')");
$crm->max("SELECT mc_add_recipients($campaign, 'candidate', '{901, 902}'); SELECT mc_prepare_campaign($campaign)");
$crm->run, $crm->later(40) until $crm->rita("SELECT status FROM mc_campaign WHERE campaign_id = $campaign") =~ /^(prepared|failed)$/;
is(join(' ', map { $crm->shown("c$_\@crm.test") =~ s/\|.*//r } 901 .. 903), 'subscribed subscribed none', 'who is to get a campaign joins, the others are held');
like(guard(), qr/holds 198 new subscriptions/, 'and does not count');
$crm->max("SELECT mc_add_member('people', 'candidate', 903)");
$crm->run;
is($crm->shown('c903@crm.test') . ' ' . (guard() =~ /holds (\d+ new)/)[0], 'subscribed|F903| 197 new', 'nor does who is put in by hand');

# What is under way counts: here 20 removals, of which some are out.
sub room { return $node->query("SELECT mailchimp_sync.guard_room(audience_id, 'leave') FROM mailchimp_sync.audience WHERE audience = 'second'") }
$crm->ann("SELECT mc_create_audience('second', 'main', 'Second', 'candidate', 'id BETWEEN 401 AND 430')");
$crm->sync('second');
is(room(), 50, 'as many as the limit may go');
$sim->hold(method => 'DELETE', path => '/members/', times => 20, when => 'before');
$crm->ann(q{SELECT mc_alter_audience('second', '{"rule": "id BETWEEN 401 AND 410"}')});
McTest::begin($run, 'CALL mc_run();');
$sim->wait_held;
$node->wait_until("SELECT count(*) = (SELECT 50 - mailchimp_sync.guard_room(audience_id, 'leave') FROM mailchimp_sync.audience WHERE audience = 'second')
	AND count(*) > 0 FROM mailchimp_sync.inflight");
pass('less those that are under way');
$sim->release;
$run->query('');
is(room(), 30, 'and those that went');

# Engine and server come to an end and begin again.
$node->restart;
$crm->run;
like(guard(), qr/^guard_stopped\|.* 106 removals: .* 197 new subscriptions: /, 'a restart changes nothing');
$crm->ann("SELECT mc_pause('main', 'people')");
$crm->run;
like(guard(), qr/^paused\|.* 106 removals: /, 'paused');
$crm->ann("SELECT mc_resume('main', 'people')");
went();
$crm->sync;
is(went(), '0 0', 'nor do a pause, or a comparison');

# In a copy, too, which sends all that it knows to be there once more.
my $dump = $node->basedir . '/dump';
$node->query('CREATE DATABASE copy');
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('postgres') ], 'dumped');
$node->command_ok([ 'pg_restore', '-1', '-d', $node->connstr('copy'), $dump ], 'restored');
$node->query('SELECT mc_resume()', db => 'copy', as => 'ann');
$node->query('CALL mc_run()', db => 'copy', as => 'max');
my ($pushed, $left) = split / /, went();
cmp_ok($pushed, '>', 0, 'a copy works');
is("$left " . $crm->shown('c904@crm.test'), '0 none||', 'and holds');
is($node->query("SELECT detail FROM mc_audience WHERE audience = 'people'", db => 'copy'), guard() =~ s/^guard_stopped\|//r, 'what it held before');
$crm->ann("SELECT mc_approve('people')");
$crm->run;
is(went() . ' ' . guard(), '197 106 active|', 'mc_approve lets both go');

# A second audience has limits of its own, and begins with a fill of its own; dropping one forgets all of it.
$crm->ann("SELECT mc_drop_audience('people'); SELECT mc_create_audience('people', 'main', 'Customers', 'candidate', 'active')");
$crm->sync;
is(guard(), 'active|', 'a new audience begins anew');
is($node->query("SELECT count(*), count(DISTINCT audience_id) FROM mailchimp_sync.guard"), '4|2', 'nothing is left of the one that was dropped');

$run->quit;
done_testing();
