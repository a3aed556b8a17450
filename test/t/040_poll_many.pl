# Many campaigns are polled beside one that is being sent, which they do not delay (R49), and together when they are old (R53-R55). When
# each of them is due is in sql/poll_tiers.sql, that it is found by an index, and which go together, in sql/poll_many.sql.

use strict;
use warnings;
use JSON::PP;
use McCrm;
use McTest;
use Test::More;

my $many = 12;
my $crm = McCrm->start('main', candidates => 20, audience => ", read_every => '10 years', every => '10 years'");
my ($node, $sim) = @$crm{qw(node sim)};
$sim->post('/_sim/config', { count_seconds => 0, count_looks => 0 });
$crm->sync;

sub draft
{
	my ($name, $key) = @_;
	my $id = $crm->max("SELECT mc_create_campaign('$name', 'people', 'Newsletter', 'Max', 'max\@example.org')");
	$crm->max("SELECT mc_add_recipients($id, 'candidate', '{$key}')");
	return $id;
}

my %remote;		# id => its id at Mailchimp
my @old = map { draft("Old $_", $_) } 1 .. $many;
$crm->max("SELECT mc_send_campaign(c) FROM unnest('{" . join(',', @old) . "}'::bigint[]) c");
$crm->run;
%remote = split /[|\n]/, $crm->rita("SELECT campaign_id, mailchimp_id FROM mc_campaign WHERE status = 'sent'");
is(scalar keys %remote, $many, "$many campaigns are sent");
# in one second, however slow the machine is: what is asked for together begins where ten were sent nearest to each other
$node->query('UPDATE mailchimp_sync.campaign SET sent_at = (SELECT min(c.sent_at) FROM mailchimp_sync.campaign c)');
$crm->journal;

sub begin_run
{
	my $session = $node->session(as => 'max');
	McTest::begin($session, 'CALL mc_run();');
	return $session;
}

sub end_run { my ($session) = @_; $session->query(''); $session->quit }
sub held { return @{ $sim->get('/_sim/holds')->{held} } }
sub wait_sent { my ($id) = @_; $node->wait_until("SELECT status = 'sent' FROM mc_campaign WHERE campaign_id = $id") }

# Which campaigns were asked for their report, in order of their ids, from what the journal has since the last look.
sub asked { return join ' ', map { $_->{path} =~ m{^/reports/(\w+)$} ? $1 : () } sort { $a->{path} cmp $b->{path} } @_ }
sub all { return join ' ', sort @_ }

# -----------------------------------------------------------------------------------------------------------------
# Polls that are under way leave room for a campaign, and for its contacts
# -----------------------------------------------------------------------------------------------------------------

$crm->later(601);
$sim->hold(path => '^/reports/', times => -1, when => 'before');
my $session = begin_run();
my $urgent = draft('Urgent', 20);
$sim->wait_held(4);
$crm->ann("UPDATE crm.candidate SET first_name = 'New' WHERE id = 20");
$crm->max("SELECT mc_send_campaign($urgent)");
wait_sent($urgent);
is($crm->member('c20@crm.test')->{merge_fields}{FNAME}, 'New', 'a campaign is sent, its contact brought up to date, while none of the polls has an answer');
is(scalar(grep { $_->{path} =~ m{^/reports/} } held()), 4, 'four of them at a time, of six slots');
$sim->release;
end_run($session);
is(asked($crm->journal), all(values %remote, $crm->rita("SELECT mailchimp_id FROM mc_campaign WHERE campaign_id = $urgent")), 'each is polled once');

# With no slot to spare polls wait for the contacts of a campaign, not the other way round.
$crm->setting('max_connections', 2);
$crm->later(601);
$sim->hold(path => '^/reports/', times => -1, when => 'before');
$session = begin_run();
my ($poll) = $sim->wait_held(1);
my $narrow = draft('Narrow', 18);
$crm->ann("UPDATE crm.candidate SET first_name = 'Newer' WHERE id = 18");
$crm->max("SELECT mc_send_campaign($narrow)");
$node->wait_until("SELECT step = 'settle' FROM mailchimp_sync.campaign WHERE campaign_id = $narrow");
$sim->release(n => $poll->{n});
wait_sent($narrow);
is($crm->member('c18@crm.test')->{merge_fields}{FNAME}, 'Newer', 'its contact goes before the next poll');
$sim->release;
end_run($session);
$crm->setting('max_connections', 6);
$crm->journal;

# -----------------------------------------------------------------------------------------------------------------
# While a campaign is on its way there is one poll at a time
# -----------------------------------------------------------------------------------------------------------------

my $next = draft('Next', 19);
$crm->later(601);
$crm->max("SELECT mc_send_campaign($next)");
my $content = $sim->hold(path => '/content$', when => 'before');
$sim->hold(path => '/actions/send$', when => 'before');
$sim->hold(path => '^/reports/', times => -1, when => 'before');
$session = begin_run();
$sim->wait_held(2);
$sim->release(hold => $content);
McTest::poll('the sending', sub { grep { $_->{path} =~ m{/actions/send$} } held() });
is(join(' ', sort map { $_->{path} =~ m{^/reports/} ? 'report' : 'send' } held()), 'report send', 'one poll beside a campaign that is being sent');
$sim->release;
end_run($session);
wait_sent($next);
is(scalar(grep { $_->{route} eq 'GET /reports/{campaign_id}' } $crm->journal), $many + 3, 'then the others');

# -----------------------------------------------------------------------------------------------------------------
# Old ones are asked for together
# -----------------------------------------------------------------------------------------------------------------

sub after { my ($seconds) = @_; $crm->later($seconds); $crm->run; return join ', ', sort map { "$_->{route} $_->{status}" } grep { $_->{route} =~ /report|campaign/ } $crm->journal }
sub polled_since { my ($at) = @_; return $crm->rita("SELECT count(*) FROM mc_poll_schedule WHERE last_polled_at > '$at'") }
sub now { return $crm->rita('SELECT max(last_polled_at) FROM mc_poll_schedule') }
sub event { my ($id, @events) = @_; $sim->post('/_sim/events', { campaign => $remote{$id}, events => \@events }) }

my $together = 'GET /reports 200';
my $alone = 'GET /reports/{campaign_id} 200';
my $activity = 'GET /reports/{campaign_id}/email-activity 200';
my $before = now();
is(after(8 * 86400), $together, 'after a week one request tells that nothing happened with any of them');
is(polled_since($before), $many + 3, 'each of them is polled by that');
is($crm->rita("SELECT min(next_poll_at - last_polled_at), max(next_poll_at - last_polled_at) FROM mc_poll_schedule"), '06:00:00|06:00:00', 'R53: and is polled next when its tier says');
is(after(6 * 3600 - 60), '', 'not before');
event($old[0], { email => 'c1@crm.test', action => 'open' });
event($old[1], { email => 'c2@crm.test', action => 'unsubscribe', reason => 'enough' });
is(after(120), "$together, $activity, GET /reports/{campaign_id}/unsubscribed 200", 'only those that moved go on to their pages');
is($crm->rita("SELECT string_agg(status, ' ' ORDER BY campaign_id) FROM mc_campaign_recipient WHERE campaign_id IN ($old[0], $old[1], $old[2])"),
	'opened unsubscribed sent', 'which are stored');

# What the page does not show: one that was deleted, one that is not sent; and one that is young
my $prepared = draft('Prepared', 16);
my $young = draft('Young', 17);
$crm->max("SELECT mc_prepare_campaign($prepared), mc_send_campaign($young)");
$crm->run;
$sim->post('/_sim/act', { campaign => $remote{ $old[2] }, action => 'delete' });
$crm->journal;
is(after(6 * 3600), join(', ', 'GET /campaigns/{campaign_id} 200', 'GET /campaigns/{campaign_id} 404', $together, $alone, 'GET /reports/{campaign_id} 404'),
	'what the page cannot tell is asked for by itself');
is($crm->rita("SELECT status, next_poll_at IS NULL FROM mc_campaign WHERE campaign_id = $old[2]"), 'deleted|t', 'gone there');
is($crm->rita("SELECT status FROM mc_campaign WHERE campaign_id = $prepared"), 'prepared', 'still to be sent');

# No page: each by itself, later
my $left = $many + 2;		# old ones
for my $fault ({ type => 'status', status => 400, json => JSON::PP::true }, 'html_502', 'garbage', 'reset_after')
{
	my $name = ref $fault ? $fault->{status} : $fault;
	$before = now();
	$sim->fault(path => '^/reports$', times => -1, fault => $fault);
	$crm->later(86400);
	$crm->run;
	# what is in doubt rests, as does the connection
	for (1 .. 5) { last if polled_since($before) == $left + 2; $crm->later(200); $crm->run }
	is(polled_since($before), $left + 2, "$name: all are polled all the same");
	my @asked = $crm->journal;
	is(scalar(grep { $_->{route} eq 'GET /reports' } @asked), 1, 'one try to do it together');
	is(asked(grep { $_->{path} eq "/reports/$remote{ $old[3] }" } @asked), $remote{ $old[3] }, 'then each alone, once');
	$sim->delete('/_sim/faults');
}
is($crm->rita('SELECT count(*) FROM mc_failure'), 0, 'no failure is left');

# Too much at the moment: together again
$before = now();
$sim->fault(path => '^/reports$', fault => 'bare_429');
$crm->later(86400);
$crm->run;
for (1 .. 5) { last if polled_since($before) == $left + 2; $crm->later(200); $crm->run }
is(join(', ', map { $_->{status} } grep { $_->{route} eq 'GET /reports' } $crm->journal), '429, 200', 'throttled: together again, later');
is(polled_since($before), $left + 2, 'and all are polled');

# A crash forgets the request, which is made anew
$before = now();
$sim->hold(path => '^/reports$', when => 'after');
$crm->later(86400);
$session = begin_run();
$sim->wait_held;
$node->kill_backend($node->query('SELECT pid FROM mailchimp_sync.engine()'));
eval { $session->quit };
$sim->release;
$crm->run;
is(scalar(grep { $_->{route} eq 'GET /reports' } $crm->journal), 2, 'after a crash they are asked for together once more');
is(polled_since($before), $left + 2, 'and all are polled');

$node->stop;
done_testing();
