# Results are fetched in tiers, with as few requests as possible, and whatever goes wrong costs a repetition (R49-R55, D1-D3,
# N5, N10); members that change outside of campaigns are read (R76, R79, D10-D12, D15). What tier begins when is in
# sql/poll_tiers.sql, what the report shows in 041_report.pl.

use strict;
use warnings;
use JSON::PP;
use List::Util qw(sum0);
use McCrm;
use McTest;
use Test::More;

my $people = 2100;
my $crm = McCrm->start('main', candidates => $people, audience => ", read_every => '10 years', every => '10 years'");
my ($node, $sim, $list) = @$crm{qw(node sim list)};
$crm->sync;
is($crm->status, "in_sync $people", 'the audience is filled');

sub draft
{
	my ($name, $keys) = @_;
	my $id = $crm->max("SELECT mc_create_campaign('$name', 'people', 'Newsletter', 'Max', 'max\@example.org')");
	$crm->max("SELECT mc_add_recipients($id, 'candidate', ARRAY[$keys])");
	return $id;
}

sub column { my ($id, $column) = @_; return $crm->rita("SELECT $column FROM mc_campaign WHERE campaign_id = $id") }

sub sent
{
	my $id = draft(@_);
	$crm->max("SELECT mc_send_campaign($id)");
	$crm->run;
	is(column($id, 'status'), 'sent', "$_[0] is sent");
	$crm->requests;
	return ($id, column($id, 'mailchimp_id'));
}

# What is asked after so many seconds, sorted: requests that are out at the same time come in any order.
sub asked { return join ', ', sort map { "GET /reports/{campaign_id}$_ 200" } '', @_ }
sub asked_after { my ($seconds) = @_; $crm->later($seconds); $crm->run; return join ', ', sort split /, /, $crm->requests }

sub act { my (%act) = @_; return $sim->post('/_sim/act', { list => $list, %act }) }
sub event { my ($campaign, @events) = @_; $sim->post('/_sim/events', { campaign => $campaign, events => \@events }) }

my $nothing = 'GET /reports/{campaign_id} 200';

# -----------------------------------------------------------------------------------------------------------------
# When (R50-R55): the bounds to the second are in sql/poll_tiers.sql
# -----------------------------------------------------------------------------------------------------------------

my ($small, $small_id) = sent('Small', '1,2,3,4,5,6');
is(asked_after(580), '', 'not before ten minutes have passed');
for (1 .. 10) { is(asked_after(600), $nothing, 'R50: every ten minutes, one request when nothing happened') }
is($crm->rita("SELECT campaign_id, name, tier, age BETWEEN '6580 s' AND '6700 s', next_poll_at - last_polled_at FROM mc_poll_schedule"),
	"$small|Small|1|t|00:10:00", 'mc_poll_schedule');
is(asked_after(1000), $nothing, 'more than two hours old');
is($crm->rita('SELECT tier, next_poll_at - last_polled_at FROM mc_poll_schedule'), '2|01:00:00', 'R51: the next tier');
is(asked_after(3500), '', 'not before an hour has passed');
is(asked_after(100), $nothing, 'then once');
is(asked_after(3 * 86400), $nothing, 'D3: what was missed is done once');
is($crm->rita('SELECT tier, next_poll_at - last_polled_at FROM mc_poll_schedule'), '3|03:00:00', 'R52: in the tier of that time');
$crm->max("SELECT mc_poll_campaign($small)");
$crm->run;
is($crm->requests, $nothing, 'mc_poll_campaign polls now');
$crm->ann("SELECT mc_set_poll_tier(3, '24 hours', '1 minute')");
is(asked_after(61), $nothing, 'a site\'s own spacing counts at once');
$crm->ann('SELECT mc_set_poll_tier(3, NULL, NULL)');

# -----------------------------------------------------------------------------------------------------------------
# What: only what moved
# -----------------------------------------------------------------------------------------------------------------

event($small_id, { email => 'c1@crm.test', action => 'open' });
like(asked_after(3 * 3600), qr{^$nothing, GET /reports/\{campaign_id\}/email-activity 200$}, 'an open: the page of activity');
event($small_id, { email => 'c2@crm.test', action => 'soft' });
is(asked_after(3 * 3600), "$nothing, GET /reports/{campaign_id}/email-activity 200", 'a bounce moves no instant and is seen all the same');
event($small_id, { email => 'c1@crm.test', action => 'click', url => 'https://www.example.org/a' });
my @clicked = qw(/email-activity /click-details /click-details);
is(asked_after(3 * 3600), asked(@clicked), 'a click: the links too, with machines and without');
event($small_id, { email => 'c3@crm.test', action => 'unsubscribe', reason => 'enough' }, { email => 'c4@crm.test', action => 'abuse' });
is(asked_after(3 * 3600), asked(qw(/abuse-reports /unsubscribed)), 'who left, who complained');
is(asked_after(3 * 3600), $nothing, 'and nothing more');
is($crm->rita("SELECT string_agg(contact_key || ' ' || status, ', ' ORDER BY contact_key) FROM mc_campaign_recipient WHERE campaign_id = $small"),
	'1 clicked, 2 bounced, 3 unsubscribed, 4 unsubscribed, 5 sent, 6 sent', 'R49: statuses are updated');
is($crm->rita("SELECT string_agg(contact_key || ' ' || reason, ', ' ORDER BY contact_key) FROM mc_group_member"), '3 enough, 4 abuse complaint',
	'R49: and the opt-out group');
is($crm->state(3), 'opted_out|is in the opt-out group', 'the contact is out');
is(act(email => 'c3@crm.test', action => 'edit')->{status}, 'unsubscribed', 'Mailchimp need not be told');

# D17: what machines did is asked only where the figures say that they did something.
sub marked { return $crm->rita("SELECT string_agg(contact_key || ' ' || type, ', ' ORDER BY contact_key, type) FROM mc_activity WHERE campaign_id = $small AND machine") }
event($small_id, { email => 'c5@crm.test', action => 'open', proxy => JSON::PP::true });
is(asked_after(3 * 3600), asked(qw(/email-activity /open-details)), 'a machine opens: which opens are machines\'');
event($small_id, { email => 'c6@crm.test', action => 'click', url => 'https://www.example.org/a', bot => JSON::PP::true });
is(asked_after(3 * 3600), asked(@clicked, '/email-activity'), 'a machine clicks: which clicks are people\'s');
is(marked(), '5 opened, 6 clicked', 'they are marked');
event($small_id, { email => 'c1@crm.test', action => 'open' }, { email => 'c1@crm.test', action => 'click', url => 'https://www.example.org/a' });
is(asked_after(3 * 3600), asked(@clicked), 'people do something: no more is asked of machines');
is($crm->rita("SELECT total_opened, machine_opened, total_clicked, machine_clicked, note FROM mc_report WHERE campaign_id = $small"), '3|1|3|1|',
	'both figures');
is(asked_after(3 * 3600), $nothing, 'and nothing more');

# Marks that are behind the figures are asked for once more, as a whole, like all that falls short.
$sim->fault(path => '/open-details', fault => { type => 'status', status => 200, body => { members => [] } });
event($small_id, { email => 'c6@crm.test', action => 'open', proxy => JSON::PP::true });
is(asked_after(3 * 3600), asked(qw(/email-activity /open-details)), 'the mark of an open is late');
is(asked_after(3 * 3600), asked('/open-details'), 'it is asked for again');
is(marked(), '5 opened, 6 clicked, 6 opened', 'and comes');
$sim->fault(path => '/email-activity', nth => 2, fault => { type => 'status', status => 200, body => { emails => [] } });
event($small_id, { email => 'c5@crm.test', action => 'click', url => 'https://www.example.org/a', bot => JSON::PP::true });
is(asked_after(3 * 3600), asked(@clicked, '/email-activity'), 'the mark of a click is late');
is(asked_after(3 * 3600), asked(qw(/click-details /click-details /email-activity)), 'it is asked for again, by way of the links');
is(marked(), '5 clicked, 5 opened, 6 clicked, 6 opened', 'and comes');
is(asked_after(3 * 3600), $nothing, 'and that is that');

# The report promises more than its pages give (its figures are ahead): they are read once more, then let be.
$sim->fault(path => '/email-activity', times => -1, fault => { type => 'status', status => 200, body => { emails => [] } });
my $both = "$nothing, GET /reports/{campaign_id}/email-activity 200";
sub opens { return $crm->rita("SELECT total_opened, recorded_opened FROM mc_report WHERE campaign_id = $small") }
for my $email (qw(c5@crm.test c1@crm.test))
{
	event($small_id, { email => $email, action => 'open' });
	is(asked_after(3 * 3600), $both, 'an open that the pages do not show');
	is(asked_after(3 * 3600), $both, 'read once more although nothing moved');
	is(asked_after(3 * 3600), $nothing, 'then let be');
}
is(opens(), '6|4', 'the report shows the difference (D17)');
$sim->delete('/_sim/faults');
event($small_id, { email => 'c6@crm.test', action => 'open' });
is(asked_after(3 * 3600), $both, 'something moves');
is(opens(), '7|6', 'read from the last known instant on, with an overlap');
is(asked_after(3 * 3600), $both, 'and as it is still short, once more as a whole');
is(opens(), '7|7', 'which heals it (N5)');
is(asked_after(3 * 3600), $nothing, 'and that is that');

# -----------------------------------------------------------------------------------------------------------------
# Many recipients: several pages at once; a crash goes on where it was
# -----------------------------------------------------------------------------------------------------------------

my ($large, $large_id) = sent('Large', join(',', 10 .. $people));
sub truth { return $sim->get("/_sim/truth/$large_id") }
sub figures { return $crm->rita("SELECT total_opened, recorded_opened, total_clicked, recorded_clicked FROM mc_report WHERE campaign_id = $large") }
sub known { my $t = truth(); return join '|', ($t->{opens}{total}) x 2, ($t->{clicks}{total}) x 2 }

sub offsets { return join ' ', sort { $a <=> $b } map { $_->{query}{offset} } grep { $_->{route} =~ /email-activity/ } @_ }

$sim->post('/_sim/engage', { campaign => $large_id, seed => 3, opens => 0.6, clicks => 0.2, unsubscribes => 0.01, span_seconds => 500 });
$crm->later(700);
$sim->hold(path => "^/reports/$large_id/email-activity", times => -1, when => 'before');
my $session = $node->session(as => 'max');
McTest::begin($session, 'CALL mc_run();');
my @held = $sim->wait_held(3);
is(join(' ', sort { $a <=> $b } map { $_->{path} =~ /email-activity/ ? 1 : 0 } @held), '1 1 1', 'three pages are read at once');
my @before = $crm->journal;
is(offsets(@before), '0 1000 2000', 'by their offsets');
$sim->release(n => $held[1]{n});
my $done = (grep { $_->{n} == $held[1]{n} } @before)[0]{query}{offset};
# read by now: that one, the page of the links and the one of those who left
$node->wait_until("SELECT (phase, done, total) = ('reading', 3, 5) FROM mc_progress WHERE (work, audience, campaign_id) = ('poll', 'people', $large)", as => 'rita');
my $watcher = $node->session(as => 'max');
my $from = $node->log_end;
McTest::begin($watcher, 'CALL mc_run();');
$node->wait_log(qr/\tcampaign $large "Large": reading, 3 of 5 pages of its report, [0-9.]+ per second, [0-9:]+ left$/m, $from);
$node->kill_backend($node->query('SELECT pid FROM mailchimp_sync.engine()'));
eval { $watcher->quit };
eval { $session->quit };
$sim->release;
$crm->journal;
$crm->run;
my @after = $crm->journal;
is(offsets(@after), join(' ', grep { $_ != $done } 0, 1000, 2000), 'after a crash the pages that are missing are read')
  or note explain [ map { "$_->{route} $_->{query}{offset}" } @after ];
is(scalar(grep { $_->{route} eq 'GET /reports/{campaign_id}' && $_->{path} =~ /$large_id/ } @after), 0, 'and the report is not asked again');
is(figures(), known(), 'nothing is missing and nothing is twice');

$crm->later(601);
$crm->run;
$crm->journal;
is(figures(), known(), 'nor after the next poll');

# The last page is full: the walk goes on until a short one.
my @even = split /\n/, $crm->rita("SELECT contact_key FROM mc_contact_state WHERE state = 'in_sync' ORDER BY 1 LIMIT 1000");
my ($even, $even_id) = sent('Even', join(',', @even));
is(column($even, 'recipients'), 1000, 'exactly a thousand recipients');
event($even_id, { email => "c$even[-1]\@crm.test", action => 'open' });
$crm->later(700);
$crm->run;
is(offsets(grep { $_->{path} =~ /$even_id/ } $crm->journal), '0 1000', 'a walk ends on a short page');

# Page after page the engine needs no more memory (rule 12), and says how far it is; test/bench/engagement reads a million events.
my $crowd_id = $sim->post('/_sim/crowd', { list => $list, people => 13000, email => 'm%@crm.test', opens => 0.8, opens_each => 6, clicks => 0.3,
	span_seconds => 600 })->{campaign};
my $crowd = $node->query("INSERT INTO mailchimp_sync.campaign (connection, list_id, audience_id, name, status, marker, created_at, created_by, mailchimp_id, sent_at)
	SELECT 'main', '$list', audience_id, 'Crowd', 'sent', 'crowd', mailchimp_sync.clock(), 'x', '$crowd_id', mailchimp_sync.clock() FROM mailchimp_sync.audience
	RETURNING campaign_id");
$node->query("INSERT INTO mailchimp_sync.recipient (campaign_id, source_id, contact_key, email, email_hash, status, added_at, added_by)
	SELECT $crowd, 0, md5(e), e, md5(e), 'sent', now(), 'x' FROM (SELECT 'm' || i || '\@crm.test' AS e FROM generate_series(1, 13000) i) p");
$crm->later(700);
$crm->run;
$sim->hold(path => "^/reports/$crowd_id/email-activity", times => -1, when => 'before');
$crm->max("SELECT mc_poll_campaign($crowd)");
my $reader = $node->session(as => 'max');
McTest::begin($reader, 'CALL mc_run();');

sub pages { return "(SELECT count(*) FROM mailchimp_sync.poll_page WHERE campaign_id = $crowd AND walk = 'activity' AND is_done)" }

# The memory of the engine when so many pages are stored, and the next four, which is all that it reads at once, are held.
sub memory_after
{
	my ($pages) = @_;
	while ((my $done = $node->query('SELECT ' . pages())) < $pages)
	{
		my ($held) = $sim->wait_held;
		$sim->release(n => $held->{n});
		$node->wait_until("SELECT $done < " . pages());
	}
	$sim->wait_held(4);
	is($crm->rita("SELECT phase, done, total FROM mc_progress WHERE (work, campaign_id) = ('poll', $crowd)"), "reading|$pages|15", 'mc_progress');
	# its own pages, those of what was read from JSON too, which no memory context has; wherever the machine keeps them
	my $pid = $node->query('SELECT pid FROM mailchimp_sync.engine()');
	return sum0(PostgreSQL::Test::Utils::slurp_file("/proc/$pid/status") =~ /^(?:RssAnon|VmSwap):\s+(\d+) kB/mg) || die 'what it takes is not known';
}

my ($early, $late) = map { memory_after($_) } 3, 8;
note "memory after 3 pages $early kB, after 8 $late";
# a page is more than two megabytes
cmp_ok($late - $early, '<', 6000, 'rule 12: the memory of the engine does not grow with the pages');
$sim->release;
$reader->query('');
$reader->quit;
is($crm->rita("SELECT total_opened - recorded_opened, total_clicked - recorded_clicked, total_opened > 30000 FROM mc_report WHERE campaign_id = $crowd"),
	'0|0|t', 'all of it is stored');
is($crm->rita("SELECT count(*) FROM mc_progress WHERE campaign_id = $crowd"), 0, 'and nothing is under way any more');
$node->query("UPDATE mailchimp_sync.campaign SET next_poll_at = NULL WHERE campaign_id = $crowd");
$crm->requests;

# -----------------------------------------------------------------------------------------------------------------
# What goes wrong
# -----------------------------------------------------------------------------------------------------------------

sub failure { my ($id) = @_; return $crm->rita("SELECT work, title, detail, attempts, next_attempt_at > last_failed_at FROM mc_failure WHERE campaign_id = $id") }

$crm->ann(qq{SELECT mc_set_poll_tier(t, a::interval, '1 year') FROM unnest('{1,2,3,4,5,6}'::int[],
	'{0,2 hours,24 hours,7 days,14 days,1 month}'::text[]) AS x(t, a)});
my ($faulty, $faulty_id) = sent('Faulty', "$even[0],$even[1]");
sub polled { $crm->max("SELECT mc_poll_campaign($faulty)"); $crm->run; return $crm->requests }

# mc_run stays for what is soon to be tried again, so the failure is looked at while it runs.
sub fails
{
	my ($status) = @_;
	$sim->fault(path => "^/reports/$faulty_id\$", times => -1, fault => { type => 'status', status => $status, json => JSON::PP::true });
	$crm->max("SELECT mc_poll_campaign($faulty)");
	my $session = $node->session(as => 'max');
	McTest::begin($session, 'CALL mc_run();');
	$node->wait_until("SELECT count(*) = 1 FROM mc_failure WHERE campaign_id = $faulty AND attempts > 1");
	my $failure = failure($faulty);
	$sim->delete('/_sim/faults');
	$session->query('');
	$session->quit;
	return $failure;
}

event($faulty_id, { email => "c$even[0]\@crm.test", action => 'open' });
like(fails(400), qr/^poll\|Bad Request\|[^|]+\|[2-9]\|t$/, 'a refusal is noted with Mailchimp\'s words, and tried again');
$crm->later(400);
$crm->run;
is(failure($faulty), '', 'and gone when it works again');
is($crm->rita("SELECT recorded_opened FROM mc_report WHERE campaign_id = $faulty"), 1, 'the results are there');
$crm->requests;

my $opens = 1;
for my $fault (qw(reset_after html_502 garbage cut bare_429), { type => 'status', status => 200, body => {} })
{
	my $name = ref $fault ? 'an empty answer' : $fault;
	for my $path ("^/reports/$faulty_id\$", '/email-activity')
	{
		event($faulty_id, { email => "c$even[0]\@crm.test", action => 'open' });
		$opens++;
		$sim->fault(path => $path, fault => $fault);
		# what is in doubt counts against the slots for a while
		$crm->later(200);
		polled();
		for (1 .. 5)
		{
			last if $crm->rita("SELECT recorded_opened FROM mc_report WHERE campaign_id = $faulty") == $opens;
			$crm->later(400);
			$crm->run;
		}
		is($crm->rita("SELECT total_opened, recorded_opened FROM mc_report WHERE campaign_id = $faulty"), "$opens|$opens", "$name at $path: done later")
		  or note explain [ map { "$_->{route} $_->{status}" } $crm->journal ];
		is(failure($faulty), '', 'and nothing is left of it');
	}
}
$crm->requests;

# Somebody holds the campaign in an open transaction: the engine does not wait for him.
my $holder = $node->session(as => 'max');
$holder->query("BEGIN; SELECT mc_poll_campaign($faulty)");
$crm->max("SELECT mc_poll_campaign($small)");
$crm->run;
is($crm->requests, $nothing, 'another campaign is polled meanwhile');
$holder->query('COMMIT');
$holder->quit;
$crm->run;
is($crm->requests, $nothing, 'and this one when he has finished');

# -----------------------------------------------------------------------------------------------------------------
# Deleted, sent and changed at Mailchimp
# -----------------------------------------------------------------------------------------------------------------

like(fails(404), qr/^poll\|no report\|the campaign is "sent" at Mailchimp/, 'no report, but the campaign is there: a failure and not the end');
is(join(' ', (split /, /, $crm->requests)[0, 1]), 'GET /reports/{campaign_id} 404 GET /campaigns/{campaign_id} 200', 'it was looked for');
$crm->later(400);
$crm->run;
is(failure($faulty), '', 'the next time the report is there');
$crm->requests;
$sim->post('/_sim/act', { campaign => $faulty_id, action => 'delete' });
is(polled(), 'GET /reports/{campaign_id} 404, GET /campaigns/{campaign_id} 404', 'deleted at Mailchimp');
is(column($faulty, "status || ' ' || (next_poll_at IS NULL)::text"), 'deleted true', 'the campaign says so, and polling ends');
is($crm->rita("SELECT recorded_opened FROM mc_report WHERE campaign_id = $faulty"), $opens, 'what is known of it stays');
is(failure($faulty), '', 'that is no failure');
is($crm->rita("SELECT count(*) FROM mc_poll_schedule WHERE campaign_id = $faulty"), 0, 'nor is it in the schedule');
like($node->error("SELECT mc_poll_campaign($faulty)", as => 'max'), qr/cannot poll campaign $faulty: it is deleted/, 'nor can it be polled');

$crm->ann('SELECT mc_set_poll_tier(t, NULL, NULL) FROM generate_series(1, 6) t');
sub prepared
{
	my $id = draft(@_);
	$crm->max("SELECT mc_prepare_campaign($id)");
	$crm->run;
	is(column($id, 'status'), 'prepared', "$_[0] is prepared");
	return ($id, column($id, 'mailchimp_id'));
}
sub state_asked { my ($id) = @_; return join ', ', map { "$_->{route} $_->{status}" } grep { $_->{path} =~ /$id/ } $crm->journal }

my ($prepared, $prepared_id) = prepared('Prepared', "$even[0],$even[1]");
$crm->requests;
$crm->later(590);
$crm->run;
is(state_asked($prepared_id), '', 'D1: a prepared campaign is not asked for before its time');
$crm->later(15);
$crm->run;
is(state_asked($prepared_id), 'GET /campaigns/{campaign_id} 200', 'then for its state alone');
$sim->post('/_sim/act', { campaign => $prepared_id, action => 'send' });
$crm->later(600);
$crm->run;
is(column($prepared, "status || ' ' || emails_sent"), 'sent 2', 'sent by somebody at Mailchimp: adopted');
is($crm->rita("SELECT string_agg(status, ' ') FROM mc_campaign_recipient WHERE campaign_id = $prepared"), 'sent sent', 'with its recipients');
like(state_asked($prepared_id), qr{^GET /campaigns/\{campaign_id\} 200(, GET /campaigns/\{campaign_id\} 200)*, GET /reports/\{campaign_id\} 200$}, 'and its report is asked for');
my ($dropped, $dropped_id) = prepared('Dropped', $even[2]);
$sim->post('/_sim/act', { campaign => $dropped_id, action => 'delete' });
$crm->later(601);
$crm->run;
is(column($dropped, 'status'), 'deleted', 'deleted by somebody at Mailchimp: adopted');

# -----------------------------------------------------------------------------------------------------------------
# Members that change outside of campaigns
# -----------------------------------------------------------------------------------------------------------------

$crm->ann(qq{SELECT mc_alter_audience('people', '{"read_every": "10 minutes"}')});
$crm->ann("SELECT mc_set_poll_tier(t, a::interval, '10 years') FROM unnest('{1,2,3,4,5,6}'::int[],
	'{0,2 hours,24 hours,7 days,14 days,1 month}'::text[]) AS x(t, a)");
$crm->later(601);
$crm->run;
my @reads = grep { $_->{route} eq 'GET /lists/{list_id}/members' } $crm->journal;
# a page begins anew at the last change that was shown, where that is another second than the page's first
like(join(' ', map { ($_->{query}{status} // 'all') . ' ' . $_->{query}{offset} } @reads), qr/^all 0( all (0|1000|2000)){2,4} archived 0$/, 'the first read goes back to the start');
my $read = 'all 200, archived 200';

# What is read, and asked besides, after so many seconds.
sub read_after
{
	my ($seconds) = @_;
	$crm->later($seconds);
	$crm->run;
	return join ', ', map { ($_->{route} eq 'GET /lists/{list_id}/members' ? $_->{query}{status} // 'all' : $_->{route}) . " $_->{status}" }
	  grep { !McTest::is_refresh($_) } $crm->journal;
}

my $read_at = $crm->rita('SELECT read_at FROM mc_audience');
is(read_after(590), '', 'not before read_every has passed');
is(read_after(11), $read, 'then one page, and one of archived members');
is($crm->rita("SELECT read_at BETWEEN '$read_at'::timestamptz + interval '600 s' AND '$read_at'::timestamptz + interval '660 s' FROM mc_audience"),
	't', 'mc_audience shows when');

act(email => 'c20@crm.test', action => 'unsubscribe', reason => 'bye');
act(email => 'c21@crm.test', action => 'admin_unsubscribe');
act(email => 'c22@crm.test', action => 'archive');
act(email => 'c23@crm.test', action => 'clean');
act(email => 'stranger@crm.test', action => 'add');
act(email => 'stranger@crm.test', action => 'unsubscribe');
my $members = $crm->rita('SELECT count(*) FROM mc_member');
is(read_after(601), $read, 'people leave by themselves');
is($crm->rita("SELECT string_agg(contact_key || ' ' || reason, ', ' ORDER BY contact_key) FROM mc_group_member WHERE contact_key IN ('20', '21', '22', '23')"),
	'20 bye, 21 N/A (Unsubscribed by an admin)', 'R45, R76: who unsubscribed is in the group');
is($crm->state($_->[0]), $_->[1], "$_->[0]: $_->[1]") for [ 20, 'opted_out|is in the opt-out group' ], [ 22, 'inactive|archived at Mailchimp' ], [ 23, 'inactive|cleaned at Mailchimp' ];
is($crm->rita('SELECT count(*) FROM mc_member'), $members, 'R79, D15: a stranger is none of our business');
is($crm->rita("SELECT count(*) FROM mc_group_member WHERE email ~ 'stranger'"), 0, 'whatever he does');
is(read_after(601), $read, 'nothing more follows');

$crm->max("SELECT mc_opt_in('candidate', 21)");
is(read_after(601), $read, 'let in again');
is($crm->rita("SELECT mc_is_opted_out('candidate', 21)"), 'f', 'the overlap does not put her out again');
act(email => 'c20@crm.test', action => 'resubscribe');
act(email => 'c22@crm.test', action => 'resubscribe');
read_after(601);
is($crm->state(20), 'opted_out|is in the opt-out group', 'D12: who comes back at Mailchimp stays blocked here');
is($crm->rita("SELECT status FROM mc_member WHERE contact_key = '22'"), 'subscribed', 'and who came back from the archive is a member');
is($crm->state(22), 'in_sync|', 'and in step');

$crm->ann(qq{SELECT mc_alter_audience('people', '{"on_unsubscribe": "inactive"}')});
act(email => 'c24@crm.test', action => 'unsubscribe');
read_after(601);
is($crm->state(24) . ' ' . $crm->rita("SELECT mc_is_opted_out('candidate', 24)"), 'inactive|unsubscribed at Mailchimp f', 'D11: inactive in this audience only');
$crm->ann(qq{SELECT mc_alter_audience('people', '{"on_unsubscribe": "ignore"}')});
act(email => 'c25@crm.test', action => 'unsubscribe');
read_after(601);
is($crm->state(25) . ' ' . $crm->rita("SELECT mc_is_opted_out('candidate', 25)"), 'in_sync|unsubscribed at Mailchimp f', 'D11: ignored');
is($crm->rita("SELECT status, active FROM mc_member WHERE contact_key = '25'"), 'unsubscribed|f', 'but shown');

# A page that is refused, or no page at all, is read later; a list that is gone is the audience's trouble.
sub read_fails
{
	my ($fault, $what) = @_;
	$crm->later(601);
	$sim->fault(method => 'GET', path => '^/lists/[^/]+/members$', times => -1, fault => $fault);
	my $session = $node->session(as => 'max');
	McTest::begin($session, 'CALL mc_run();');
	$node->wait_until("SELECT count(*) = 1 FROM mc_failure WHERE work = 'pull' AND audience = 'people' AND $what");
	my $state = $crm->rita('SELECT state FROM mc_audience');
	$sim->delete('/_sim/faults');
	$session->query('');
	$session->quit;
	$crm->later(400);
	$crm->run;
	return "$state " . $crm->rita("SELECT state || ' ' || (SELECT count(*) FROM mc_failure WHERE work = 'pull') FROM mc_audience");
}

act(email => 'c26@crm.test', action => 'unsubscribe');
is(read_fails({ type => 'status', status => 400, json => JSON::PP::true }, "title = 'Bad Request' AND attempts > 1"), 'active active 0', 'refused: noted, tried again');
is($crm->rita("SELECT status FROM mc_member WHERE contact_key = '26'"), 'unsubscribed', 'and read later');
is(read_fails({ type => 'status', status => 200, body => {} }, "detail ~ 'no \"members\"'"), 'active active 0', 'nonsense: noted');
is(read_fails({ type => 'status', status => 404, json => JSON::PP::true }, "title = 'Resource Not Found'"), 'failing active 0', 'no such list: the audience is failing');

$node->stop;
done_testing();
